"""How a source becomes a launch: compiling, caching and spreading work over threads."""
