package postgres

import (
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A KeywordError is a keyword of the connection string that cannot be honoured, and what to do about it. It quotes no
// value.
type KeywordError struct{ Keyword, Fix string }

func (e *KeywordError) Error() string {
	return fmt.Sprintf("the connection string has %s: %s", e.Keyword, e.Fix)
}

// Parse reads a connection string, a URL or keywords and values, as each of our connections does. Since one string
// often serves many programs, keywords of libpq that change nothing here are dropped; one that asks for what this
// program cannot do is a *KeywordError. Keywords that are neither libpq's nor pgxpool's are sent to PostgreSQL as its
// parameters.
func Parse(connString string) (*pgx.ConnConfig, error) {
	cfg, err := parsePool(connString)
	if err != nil {
		return nil, err
	}
	return cfg.ConnConfig, nil
}

func parsePool(connString string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	params := cfg.ConnConfig.RuntimeParams
	for keyword, value := range params {
		accept, ok := libpqKeywords[keyword]
		if !ok {
			continue
		}
		if fix := accept(value); fix != "" {
			return nil, &KeywordError{keyword, fix}
		}
		delete(params, keyword)
		if keyword == "fallback_application_name" {
			Name(cfg.ConnConfig, value)
		}
	}
	return cfg, nil
}

// libpqKeywords are those that pgx takes for parameters of PostgreSQL. Each gives what to do about a value that cannot
// be honoured, and nothing for one that can: either we do the same, or it does not matter to us.
//
//nolint:gochecknoglobals // a constant that Go cannot declare as such
var libpqKeywords = map[string]func(value string) (fix string){
	"client_encoding":           anything, // UTF-8 is spoken in any case
	"fallback_application_name": anything,
	"gssdelegation":             anything,
	"gssencmode":                unless("require", "sslmode=verify-full encrypts, too"),
	"gsslib":                    anything,
	"hostaddr":                  never("give the address as the host"),
	"keepalives":                anything, // these four, and the next one, are set anew for what LISTENs
	"keepalives_count":          anything,
	"keepalives_idle":           anything,
	"keepalives_interval":       anything,
	"tcp_user_timeout":          anything,
	"load_balance_hosts":        anything, // hosts are tried in their order
	"replication":               never("leave it out; reading the WAL asks for it where it is needed"),
	"requirepeer":               never("leave it out"),
	"requiressl":                unless("1", "give sslmode=require or sslmode=verify-full"),
	"ssl_max_protocol_version":  never("leave it out"),
	"ssl_min_protocol_version":  unless("TLSv1.3", "leave it out: TLS 1.2 is the least that is spoken"),
	"sslcompression":            unless("1", "leave it out: TLS compresses nothing"),
	"sslcrl":                    never("leave it out: lists of revoked certificates are not read"),
	"sslcrldir":                 never("leave it out: lists of revoked certificates are not read"),
	"tty":                       anything,
}

func anything(string) string { return "" }

func never(fix string) func(string) string { return func(string) string { return fix } }

func unless(bad, fix string) func(string) string {
	return func(value string) string {
		if strings.EqualFold(value, bad) {
			return fix
		}
		return ""
	}
}

// Fresh gives a copy of cfg with the password that its connection string leads to now: whoever rotates a password in a
// passfile or a service file restarts nobody.
func Fresh(cfg *pgx.ConnConfig) *pgx.ConnConfig {
	cfg = cfg.Copy()
	if now, err := Parse(cfg.ConnString()); err == nil && cfg.ConnString() != "" {
		cfg.Password = now.Password
	}
	return cfg
}
