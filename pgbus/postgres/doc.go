// Package postgres is how this program connects to PostgreSQL: pools and single connections with names and timeouts,
// which history of the database a connection shows, and transactions that are run again when PostgreSQL ended them
// for the sake of another. It knows no table but topology_settings.
package postgres
