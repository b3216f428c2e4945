"""The functions of the service: submit and status, HTTP before them (api), and consume behind the queue."""
