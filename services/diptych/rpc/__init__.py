"""What every service and client of Diptych shares of gRPC: servers, channels, errors, identity."""
