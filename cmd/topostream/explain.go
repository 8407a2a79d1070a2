package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/postgres"
)

// explain turns the failures that a stranger meets first into one line with the fix. It never holds a password.
func explain(err error) string {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch pgErr.Code {
		case "28P01", "28000": // invalid_password, invalid_authorization_specification
			return fmt.Sprintf("PostgreSQL refused the user or the password in --database-url (%s): correct it", pgErr.Message)
		case "3D000": // invalid_catalog_name
			return pgErr.Message + ": create it (`createdb …`) or correct --database-url"
		case "42501": // insufficient_privilege
			return fmt.Sprintf("PostgreSQL: %s: give the user the grants of deploy/postgres/grants.sql", pgErr.Message)
		}
	}
	if parseErr, ok := errors.AsType[*pgconn.ParseConfigError](err); ok {
		return explainConnectionString(parseErr)
	}
	if connectErr, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		// An unencoded @ or / in a password moves its end into the host or the database.
		if c := connectErr.Config; c != nil && strings.Contains(c.Host+c.Database, "@") {
			return badConnectionString
		}
		// Such as a parameter that it does not know.
		if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && !postgres.Away(pgErr) {
			return fmt.Sprintf("PostgreSQL refused the connection (%s): correct --database-url", oneLine(pgErr.Message))
		}
		return fmt.Sprintf("cannot reach PostgreSQL: is it running, and is --database-url right? (%s)",
			oneLine(connectErr.Error()))
	}
	var opErr *net.OpError
	if errors.As(err, &opErr) && opErr.Op == "listen" {
		flag := "--addr"
		if listenErr, ok := errors.AsType[*listenError](err); ok {
			flag = listenErr.flag
		}
		return explainListen(opErr, flag)
	}
	return err.Error()
}

const badConnectionString = "the connection string (--database-url, DATABASE_URL) cannot be read: write " +
	"postgres://user:password@host:5432/name, " +
	"with %40 for @, %2F for / and so on in the password"

// explainConnectionString gives pgx's reason only where it cannot quote a part of the password: of what is no URL,
// nobody can tell which part that is. (An unencoded / ends the host, and a message that names the port names the
// password's beginning.)
func explainConnectionString(err *pgconn.ParseConfigError) string {
	reason := errors.Unwrap(err)
	if u, parseErr := url.Parse(err.ConnString); reason == nil || parseErr != nil || u.Scheme == "" {
		return badConnectionString
	}
	return fmt.Sprintf("%s (%s)", badConnectionString, oneLine(reason.Error()))
}

// explainListen names the flag whose address is not to be had.
func explainListen(err *net.OpError, flag string) string {
	if err.Addr == nil { // it could not be read
		return fmt.Sprintf("%s: %s: give host:port, for example 127.0.0.1:8080", flag, err.Err)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Sprintf("%s is taken by another program: stop it or choose another %s", err.Addr, flag)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("%s is no address of this machine: choose another %s", err.Addr, flag)
	case errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("you may not serve on %s: choose another %s, with a port above 1023", err.Addr, flag)
	}
	return err.Error()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
