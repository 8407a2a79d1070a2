package main

import (
	"fmt"
	"time"

	"topostream/stream"
	"topostream/stream/auth"
)

type tokenCmd struct {
	JWTSecret     string        `name:"jwt-secret" help:"Secret, 32 bytes or more. It shows in the process list: prefer --jwt-secret-file." placeholder:"SECRET"`
	JWTSecretFile string        `name:"jwt-secret-file" type:"path" help:"File that holds the secret: recommended. Of several, each on a line, the first signs." placeholder:"FILE"`
	JWTIssuer     string        `name:"jwt-issuer" help:"iss of the token." placeholder:"ISSUER"`
	JWTAudience   string        `name:"jwt-audience" help:"aud of the token." placeholder:"AUDIENCE"`
	Sub           string        `default:"operator" help:"Who the token speaks for."`
	Role          string        `default:"viewer" enum:"viewer,admin" help:"viewer or admin."`
	TTL           time.Duration `name:"ttl" default:"1h" help:"How long it is good."`
	Topology      []string      `help:"Limit the token to this topology id (repeatable)." placeholder:"ID"`
}

// Run prints the token alone.
func (c *tokenCmd) Run(o output) error {
	secret, err := (&serveCmd{JWTSecret: c.JWTSecret, JWTSecretFile: c.JWTSecretFile}).secret()
	if err != nil {
		return err
	}
	if c.TTL <= 0 {
		return fmt.Errorf("--ttl: %s is not positive: give how long the token is good, for example 1h", c.TTL)
	}
	var topologies []stream.TopologyID
	for _, s := range c.Topology {
		id, ok := stream.ParseTopologyID(s)
		if !ok {
			return fmt.Errorf("--topology: %q is no topology id: give the 36-character form of a UUID", s)
		}
		topologies = append(topologies, id)
	}
	if err := auth.CheckSecrets(secret); err != nil {
		return err
	}
	token, err := auth.Sign(auth.Secrets(secret)[0], auth.Claims{
		Subject:    c.Sub,
		Role:       stream.Role(c.Role),
		TTL:        c.TTL,
		Topologies: topologies,
		Issuer:     c.JWTIssuer,
		Audience:   c.JWTAudience,
	}, time.Now())
	if err != nil {
		return err
	}
	fmt.Fprintln(o.out, token)
	return nil
}
