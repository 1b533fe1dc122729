package asciicast

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Pace says how fast a recording is played.
type Pace struct {
	Speed float64       // 1 is as it was; more is faster; above 0
	Idle  time.Duration // no pause is longer than this, before Speed; 0: the recording's own limit, if it has one
}

// Play writes the output of a recording to w, each piece at its time, and returns at its end. Time is counted from the start,
// so that a slow writer does not make the rest late.
func Play(ctx context.Context, r *Reader, w io.Writer, p Pace) error {
	idle := p.Idle
	if idle == 0 {
		idle = time.Duration(min(r.Header.IdleLimit, maxSeconds) * float64(time.Second))
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last, at time.Duration // of the recording; of the playing, before Speed
	for begin := time.Now(); ; {
		ev, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		pause := max(0, ev.Time-last) // an event that is written late comes at once
		last = max(last, ev.Time)
		if idle > 0 {
			pause = min(pause, idle)
		}
		at += pause
		if ev.Code != Output {
			continue
		}
		due := min(at.Seconds()/p.Speed, maxSeconds)
		timer.Reset(time.Until(begin.Add(time.Duration(due * float64(time.Second)))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if _, err := io.WriteString(w, ev.Data); err != nil {
			return fmt.Errorf("write the output: %w", err)
		}
	}
}
