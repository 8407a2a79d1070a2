package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net/http"
)

// LoadWith reads a JWKS URL that a certificate of a test stands for.
func LoadWith(ctx context.Context, address string, certificate *x509.Certificate) error {
	v, err := New(Config{JWKSURL: address})
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	client := v.keys.(*jwks).client                                      //nolint:forcetypeassert // a test
	transport := client.Transport.(limitedBodies).next.(*http.Transport) //nolint:forcetypeassert // a test
	transport.TLSClientConfig = &tls.Config{RootCAs: roots}
	return v.Load(ctx)
}
