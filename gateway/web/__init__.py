"""Pages for people, and the endpoints that machines ask how the gateway is."""
