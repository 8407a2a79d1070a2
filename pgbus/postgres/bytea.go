package postgres

import (
	"encoding/hex"
	"fmt"

	"github.com/jackc/pgx/v5/pgtype"
)

// byteaCodec reads bytes that come as text in either form that bytea_output chooses. (pgx's own reads the form hex.)
type byteaCodec struct{ pgtype.ByteaCodec }

// PlanScan implements pgtype.Codec.
func (c byteaCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if format != pgtype.TextFormatCode {
		return c.ByteaCodec.PlanScan(m, oid, format, target)
	}
	plan := c.ByteaCodec.PlanScan(m, oid, pgtype.BinaryFormatCode, target)
	if plan == nil {
		return nil
	}
	return textBytes{plan}
}

// textBytes hands on what a text stands for.
type textBytes struct{ next pgtype.ScanPlan }

// Scan implements pgtype.ScanPlan.
func (p textBytes) Scan(src []byte, target any) error {
	if src == nil {
		return p.next.Scan(nil, target)
	}
	decoded, err := decodeBytea(src)
	if err != nil {
		return err
	}
	return p.next.Scan(decoded, target)
}

// decodeBytea reads the output of bytea: \x and hex, or characters of which \ is \\ and what cannot be printed is \
// and three octal digits.
func decodeBytea(text []byte) ([]byte, error) {
	if len(text) >= 2 && text[0] == '\\' && text[1] == 'x' {
		out := make([]byte, hex.DecodedLen(len(text)-2))
		if _, err := hex.Decode(out, text[2:]); err != nil {
			return nil, fmt.Errorf("a bytea: %w", err)
		}
		return out, nil
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\':
			out = append(out, text[i])
		case i+1 < len(text) && text[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(text) && octal(text[i+1:i+4]):
			out = append(out, (text[i+1]-'0')<<6|(text[i+2]-'0')<<3|(text[i+3]-'0'))
			i += 3
		default:
			return nil, fmt.Errorf("a bytea has a \\ that escapes nothing, at %d of %d", i, len(text))
		}
	}
	return out, nil
}

func octal(digits []byte) bool {
	for _, d := range digits {
		if d < '0' || d > '7' {
			return false
		}
	}
	return digits[0] <= '3'
}
