"""The same work by other libraries, used as their users would."""
