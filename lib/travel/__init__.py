"""A result that is sent: packed as an RO-Crate, checked and unpacked, and asked why it differs from another."""
