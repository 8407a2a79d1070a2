package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"
)

// explain turns the failures that a stranger meets first into a sentence with the fix. pgconn's messages never hold a password.
func explain(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		switch pgErr.Code {
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			return fmt.Sprintf("PostgreSQL refused the user or the password in --database-url (%s): correct it", pgErr.Message)
		case "3D000": // invalid_catalog_name
			return fmt.Sprintf("%s: create it (`createdb …`) or correct --database-url", pgErr.Message)
		case "42501": // insufficient_privilege
			return fmt.Sprintf("PostgreSQL: %s: give the user the grants of the README's table", pgErr.Message)
		}
	}
	var connectErr *pgconn.ConnectError
	if errors.As(err, &connectErr) {
		return fmt.Sprintf("cannot reach PostgreSQL: is it running, and is --database-url right? (%s)", connectErr.Error())
	}
	var opErr *net.OpError
	if errors.As(err, &opErr) && opErr.Op == "listen" && errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Sprintf("%s is taken by another program: stop it or choose another --addr", opErr.Addr)
	}
	return err.Error()
}
