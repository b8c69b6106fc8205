// Swagger UI on the service's own description; a key typed there is kept for this tab alone.
SwaggerUIBundle({
  url: 'openapi.json',
  dom_id: '#explorer',
  deepLinking: true,
  tryItOutEnabled: true,
  defaultModelsExpandDepth: 0,
  // The validator's badge would send the description to another host.
  validatorUrl: null,
});
