"""Commands: one module for each of their subjects. ``gateway.__main__`` has them all, and the gateway itself."""
