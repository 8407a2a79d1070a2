package stream

// An UnavailableError is an ErrUnavailable that tells the client why.
type UnavailableError struct {
	Reason string // for the client: it names no host, role or user
	Err    error  // for the log
}

func (e *UnavailableError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap gives ErrUnavailable beside Err.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }
