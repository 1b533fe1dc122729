package process

import "testing"

func TestParseStartTime(t *testing.T) {
	const rest = " S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 2"
	for name, stat := range map[string]string{
		"plain":                 "42 (sh)" + rest,
		"spaces and brackets":   "42 (a b) c) (d)" + rest,
		"a name like the field": "42 () S 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 111)" + rest,
	} {
		if got, err := parseStartTime([]byte(stat)); err != nil || got != 987654 {
			t.Errorf("%s: %d, %v; want 987654", name, got, err)
		}
	}
	for _, stat := range []string{"", "42 (sh) S 1", "42 (sh) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x"} {
		if _, err := parseStartTime([]byte(stat)); err == nil {
			t.Errorf("%q was taken", stat)
		}
	}
}
