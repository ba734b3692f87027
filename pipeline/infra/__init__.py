"""The needs of a service, described once: compared, provisioned, checked, exported, granted by policies."""
