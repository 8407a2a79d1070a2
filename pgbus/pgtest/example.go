package pgtest

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
)

// Example stands for the test that an Example function has not. What fails is a panic, which `go test` reports; end
// runs what was registered to be cleaned up.
func Example() (t testing.TB, end func()) {
	e := &example{}
	return e, e.end
}

type example struct {
	testing.TB // nil: what is not below is nothing that an example calls

	ends []func()
}

func (*example) Helper()                           {}
func (*example) Name() string                      { return "Example" }
func (*example) Failed() bool                      { return false }
func (*example) Context() context.Context          { return context.Background() }
func (*example) Log(args ...any)                   { fmt.Fprintln(os.Stderr, args...) }
func (*example) Error(args ...any)                 { panic(fmt.Sprint(args...)) }
func (*example) Errorf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (*example) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (*example) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
func (e *example) Cleanup(f func())                { e.ends = append(e.ends, f) }

func (e *example) end() {
	for _, f := range slices.Backward(e.ends) {
		f()
	}
}
