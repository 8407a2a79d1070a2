package stream

// An UnavailableError is an ErrUnavailable that tells the client why: the reason names nothing that it must not know.
type UnavailableError struct {
	Reason string
	Err    error // for the log
}

func (e *UnavailableError) Error() string { return e.Reason + ": " + e.Err.Error() }

// Unwrap makes it an ErrUnavailable, and what it was.
func (e *UnavailableError) Unwrap() []error { return []error{ErrUnavailable, e.Err} }
