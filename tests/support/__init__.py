"""What several tests stand on: loopback servers, small models, oracles."""
