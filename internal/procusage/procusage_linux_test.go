package procusage

import (
	"errors"
	"os"
	"testing"
)

func TestOf(t *testing.T) {
	u, err := Of(os.Getpid(), 0, true)
	if err != nil || u.RSS < 1<<20 || u.RSS > 1<<34 || u.PSS == 0 || u.PSS > u.RSS+1<<20 {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := Of(os.Getpid(), 1, false); !errors.Is(err, ErrUnknown) {
		t.Error("another process:", err)
	}
	if _, err := Of(1<<22+1, 0, false); !errors.Is(err, ErrUnknown) {
		t.Error("no process:", err)
	}
}
