// Runs before the first paint, so that a chosen theme does not flash. The default is the system's.
const chosenTheme = localStorage.getItem("theme");
if (chosenTheme === "light" || chosenTheme === "dark") document.documentElement.dataset.theme = chosenTheme;
