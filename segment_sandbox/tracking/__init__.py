"""The sandbox's ingestion endpoints, and the events they take."""
