"""What tests share: private servers, a running bridge, a proxy that breaks, floods and foreign apps."""
