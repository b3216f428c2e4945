"""What happens between a request and its picture: submit, status, consume."""
