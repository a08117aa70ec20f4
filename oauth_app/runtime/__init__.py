"""Settings, and how the service is put together and kept running."""
