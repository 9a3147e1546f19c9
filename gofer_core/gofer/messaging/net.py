"""Opening TCP and TLS connections, for every adapter whose library lets the socket be handed in."""
