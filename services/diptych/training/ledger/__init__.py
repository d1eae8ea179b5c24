"""The durable record of jobs, their events and who owns them, on SQLite or PostgreSQL."""
