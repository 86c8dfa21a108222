"""The Helm chart of `deploy/helm/prebuilds`."""
