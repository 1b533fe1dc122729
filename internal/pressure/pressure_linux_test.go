package pressure

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"
)

func TestWatch(t *testing.T) {
	defer goleak.VerifyNone(t)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		err := Watch(ctx, func() {})
		cancel()
		if errors.Is(err, ErrUnknown) {
			t.Skip("the kernel does not tell, or not this user: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestAvailable(t *testing.T) {
	n, err := AvailableMiB()
	if err != nil || n < 1 || n > 1<<30 {
		t.Errorf("%d MiB, %v", n, err)
	}
}
