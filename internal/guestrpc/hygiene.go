package guestrpc

import (
	"errors"
	"fmt"
	"time"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// maxItems bounds what a guest may say of its hygiene.
const maxItems = 16

// MaxClockError is how far a guest's clock may be off.
const MaxClockError = 50 * time.Millisecond

// clockItem is the item that the host measures itself.
const clockItem = "clock"

// checkItems checks what a guest says of its hygiene.
func checkItems(list []*guestv1.HygieneItem) ([]sandbox.HygieneItem, error) {
	if len(list) > maxItems {
		return nil, fmt.Errorf("the guest tells of %d things of its own, more than the %d allowed", len(list), maxItems)
	}
	items := make([]sandbox.HygieneItem, 0, len(list)+1)
	for _, m := range list {
		if err := checkText(m.GetName()); err != nil || m.GetName() == "" {
			return nil, errors.New("the guest tells of a thing of its own that has no proper name")
		}
		if len(m.GetReason()) > maxText {
			return nil, fmt.Errorf("the guest gives a reason of %d bytes, more than the %d allowed", len(m.GetReason()), maxText)
		}
		item := sandbox.HygieneItem{Name: m.GetName(), Reason: clean(m.GetReason())}
		switch m.GetResult() {
		case guestv1.HygieneItem_PASS:
			item.Result = sandbox.HygienePass
		case guestv1.HygieneItem_FAIL:
			item.Result = sandbox.HygieneFail
		case guestv1.HygieneItem_NONE:
			item.Result = sandbox.HygieneNone
		default:
			return nil, fmt.Errorf("the guest gives a result that there is not (%d)", m.GetResult())
		}
		items = append(items, item)
	}
	return items, nil
}

// clockError is what the host knows of a guest's clock: when it read that time, it was between low and high ahead of the host's.
type clockError struct{ low, high time.Duration }

// measureClock compares the clock that a guest told of with the host's, which was sent when the request was made and received
// when the answer was there. The guest read its clock in between, and not before it had worked for as long as it says.
func measureClock(c *guestv1.Clock, sent, received time.Time) (clockError, error) {
	trip := received.Sub(sent)
	took := time.Duration(c.GetTookNs())
	if took < 0 || took > trip {
		return clockError{}, errors.New("it says that it took longer than the host has waited")
	}
	// Of wall clocks: a time that was made of numbers has no other.
	at := time.Unix(0, c.GetUnixNano())
	return clockError{at.Sub(received.Round(0)), at.Sub(sent.Round(0).Add(took))}, nil
}

// most is how far the clock may be off, in either direction.
func (e clockError) most() time.Duration { return max(e.low.Abs(), e.high.Abs()) }

// judge sets the item of the clock, unless the guest says that it could not set it.
func judge(items []sandbox.HygieneItem, e clockError, err error) []sandbox.HygieneItem {
	item := sandbox.HygieneItem{Name: clockItem, Result: sandbox.HygienePass}
	switch {
	case err != nil:
		item.Result, item.Reason = sandbox.HygieneFail, "it cannot be measured: "+err.Error()
	case e.most() > MaxClockError:
		item.Result, item.Reason = sandbox.HygieneFail, fmt.Sprintf("%s, and %v are allowed", e, MaxClockError)
	default:
		item.Reason = e.String()
	}
	for i, have := range items {
		if have.Name == clockItem {
			if have.Result == sandbox.HygienePass {
				items[i] = item
			}
			return items
		}
	}
	return append(items, item)
}

func (e clockError) String() string {
	off := (e.low + e.high) / 2
	return fmt.Sprintf("%+.1f ms off the host's (±%.1f)", ms(off), ms((e.high-e.low)/2))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
