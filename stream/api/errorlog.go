package api

import (
	"log"
	"log/slog"
	"strings"
)

// ErrorLog is for http.Server: what that has to say, at Warn. What strangers cause as often as they like, by handshakes
// that fail and by frames that are none, is logged as a sample; what ails the server itself always.
func ErrorLog(logger *slog.Logger) *log.Logger {
	return log.New(&errorLog{logger: logger}, "", 0)
}

type errorLog struct {
	logger  *slog.Logger
	sampled sampledLog
}

// Write implements io.Writer. It gets one line, or several about one thing.
func (l *errorLog) Write(line []byte) (int, error) {
	text := strings.TrimSuffix(string(line), "\n")
	if isOwn(text) {
		l.logger.Warn(text)
	} else if suppressed, ok := l.sampled.takes(); ok {
		l.logger.Warn(text, "suppressed", suppressed)
	}
	return len(line), nil
}

// isOwn tells by net/http's words whether a line is of the server, as "http: Accept error" is, and not of what one
// connection sends.
func isOwn(line string) bool {
	return strings.HasPrefix(line, "http: ") && !strings.HasPrefix(line, "http: TLS handshake error ") ||
		strings.HasPrefix(line, "http2: panic serving ")
}
