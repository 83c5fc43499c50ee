"""Everything that knows an HTTP request: routes, parsing, responses, middleware. No inference."""
