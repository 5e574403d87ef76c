// The API's description as a page on which requests can be tried. Nothing is asked of another host: a validator of the
// description, which Swagger UI would otherwise name, is switched off.
SwaggerUIBundle({
  url: 'openapi.json',
  domNode: document.querySelector('#api'),
  validatorUrl: null,
  deepLinking: true,
  docExpansion: 'list',
  defaultModelsExpandDepth: -1,
  tryItOutEnabled: true,
});
