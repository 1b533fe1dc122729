package sandbox

import (
	"errors"
	"fmt"
)

// Kind is the class of an error that a caller may branch on; the HTTP API sends it as the error's code.
type Kind string

// The kinds of errors.
const (
	Invalid     Kind = "invalid"     // the request cannot be right, whatever the state
	NotFound    Kind = "not_found"   // no such sandbox, image, kernel
	Exists      Kind = "exists"      // the name or CID is taken
	Conflict    Kind = "conflict"    // not in this state
	Unavailable Kind = "unavailable" // something that the host must have is missing; the hint says what
	Failure     Kind = "failed"      // the microVM or guest failed
	Internal    Kind = "internal"    // everything else
)

// Error is an error meant for a user: what happened, its kind, and what to do next.
type Error struct {
	Kind    Kind
	Message string
	Hint    string // what to do next; may be empty
	Err     error  // cause; may be nil
}

func (e *Error) Error() string {
	if e.Err != nil && e.Message == "" {
		return e.Err.Error()
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error. A %w in format becomes its cause.
func Errorf(kind Kind, hint, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Hint: hint, Err: errors.Unwrap(err)}
}

// KindOf returns the kind of the first *Error in err's chain; Conflict for a *TransitionError; else Internal.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var t *TransitionError
	if errors.As(err, &t) {
		return Conflict
	}
	return Internal
}
