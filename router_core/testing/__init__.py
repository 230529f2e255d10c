"""What tests of a service, of a store or of an adapter need."""
