package api

import (
	"log"
	"log/slog"
	"strings"
)

// ErrorLog is for http.Server: what that has to say of its connections, at Warn. Most of it strangers cause, as often
// as they like, by handshakes that fail: the log gets a sample.
func ErrorLog(logger *slog.Logger) *log.Logger {
	return log.New(&errorLog{logger: logger}, "", 0)
}

type errorLog struct {
	logger  *slog.Logger
	sampled sampledLog
}

// Write implements io.Writer. It gets one line, or several about one thing.
func (l *errorLog) Write(line []byte) (int, error) {
	if suppressed, ok := l.sampled.takes(); ok {
		l.logger.Warn(strings.TrimSuffix(string(line), "\n"), "suppressed", suppressed)
	}
	return len(line), nil
}
