"""What an operator sees of a mesh in Prometheus and Grafana: alert rules and boards, generated into `deploy/`. Pure."""
