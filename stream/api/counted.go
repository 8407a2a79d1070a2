package api

import (
	"errors"

	"topostream/stream"
)

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
