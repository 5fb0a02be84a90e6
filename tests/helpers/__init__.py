"""What several tests share: networks, layers, fields, planted cases, and ways to compare."""
