"""What the dashboard is made of besides sockets and routes: messages, and who may ask."""
