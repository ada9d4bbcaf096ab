"""Keys, certificates, sockets and the door that counts connections."""
