"""What a browser or a load balancer reaches: routes, pages, the HTTP API and the dashboard."""
