package process

import "sync"

// An Output collects what a program writes, while it does. The zero value is empty and ready; safe for concurrent use.
type Output struct {
	mu   sync.Mutex
	text []byte
	more chan struct{} // closed when there is more; nil: nobody waits
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text = append(o.text, p...)
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return len(p), nil
}

// Read gives what there is, and a channel that is closed when there is more.
func (o *Output) Read() (text string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return string(o.text), o.more
}

// String gives what there is.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.text)
}
