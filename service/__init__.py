"""The HTTP face: adapt to a support set, predict a query, say what to label next."""
