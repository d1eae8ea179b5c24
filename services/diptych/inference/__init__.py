"""The inference service: pictures by two experts, many unlike requests in one batch."""
