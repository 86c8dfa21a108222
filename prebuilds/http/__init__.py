"""`prebuilds serve`: what a person or a service can ask of a deployment, over HTTP. All of it is in the operations."""
