package api

import (
	"errors"
	"os"

	"topostream/stream"
	"topostream/stream/delivery"
	"topostream/stream/engine"
)

// closedBy is the label of what ended a stream.
func closedBy(why error) stream.Cause {
	switch {
	case errors.Is(why, delivery.ErrExpired):
		return stream.ClosedExpired
	case errors.Is(why, delivery.ErrReplaced):
		return stream.ClosedReplaced
	case errors.Is(why, delivery.ErrDraining):
		return stream.ClosedDraining
	case errors.Is(why, engine.ErrSlow), errors.Is(why, os.ErrDeadlineExceeded):
		return stream.ClosedSlow
	case errors.Is(why, stream.ErrDeleted), errors.Is(why, stream.ErrNotFound):
		return stream.ClosedDeleted
	case errors.Is(why, stream.ErrUnavailable), errors.Is(why, stream.ErrClosed), errors.Is(why, stream.ErrNoMemory):
		return stream.ClosedUnavailable
	}
	return stream.ClosedByClient
}

// resumed counts what became of a number that a client came with.
func (s *Server) resumed(req stream.AttachRequest, sub *stream.Subscription) {
	if !req.Resume || sub == nil {
		return
	}
	result := stream.ResumeContinued
	if sub.Snapshot != nil {
		result = stream.ResumeSnapshot
	}
	s.cfg.Stats.Resumes[result].Inc()
}

// refusedBy is the label of what was wrong with a credential.
func refusedBy(err error) stream.Cause {
	if refused, ok := errors.AsType[*stream.RefusedError](err); ok {
		return refused.Why
	}
	if errors.Is(err, stream.ErrNoTicket) {
		return stream.RefusedTicket
	}
	return stream.RefusedClaims
}

// mintedBy is the label of what became of a ticket that was asked for.
func mintedBy(err error) stream.Cause {
	switch {
	case err == nil:
		return stream.TicketMinted
	case errors.Is(err, stream.ErrTooManyTickets):
		return stream.TicketTooMany
	}
	return stream.TicketFailed
}

// redeemedBy is the label of what became of a ticket that came.
func redeemedBy(err error) stream.Cause {
	switch {
	case err == nil:
		return stream.TicketRedeemed
	case errors.Is(err, stream.ErrNoTicket):
		return stream.TicketRefused
	}
	return stream.TicketFailed
}
