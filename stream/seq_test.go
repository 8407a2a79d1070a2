package stream_test

import (
	"testing"

	"pgregory.net/rapid"

	"topostream/stream"
)

func TestASeqIsOneToSixteenDigitsAndNothingElse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]stream.Seq{
		"0": 0, "9": 9, "10": 10, "007": 7, "0123456789": 123456789, "9999999999999999": 9999999999999999,
	} {
		if got, ok := stream.ParseSeq(text); !ok || got != want {
			t.Errorf("%q: %d, %v", text, got, ok)
		}
	}
	for _, text := range []string{
		"", "00000000000000000", "10000000000000000", "-1", "+1", " 1", "1 ", "1/", "/", ":", "1:", "a", "0x1", "1e3",
		"1_0", "١",
	} {
		if got, ok := stream.ParseSeq(text); ok || got != 0 {
			t.Errorf("%q: %d, %v, want none", text, got, ok)
		}
	}
}

func TestASeqIsItsEpochAndANumberWithinIt(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		epoch := rapid.Uint32Max(1<<21-1).Draw(t, "epoch")
		seq := stream.Seq(epoch)<<32 + stream.Seq(rapid.Uint32().Draw(t, "number"))
		if seq.Epoch() != epoch {
			t.Errorf("%d is of epoch %d, want %d", seq, seq.Epoch(), epoch)
		}
		if back, ok := stream.ParseSeq(seq.String()); !ok || back != seq {
			t.Errorf("%s is read as %d, %v", seq, back, ok)
		}
	})
}
