// Package embedding shows how the streams are mounted in one's own server, with one's own authentication: see its
// example.
package embedding
