"""Describes the API: the OpenAPI document for programs, and its page for people. No request handling."""
