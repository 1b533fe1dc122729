package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/agentkernel/agentkernel/internal/sandbox"
)

// Problem is one thing that is wrong in a file.
type Problem struct {
	File    string
	Line    int // from 1; 0 when it is about the file as a whole
	Column  int // from 1, in bytes
	Message string
}

func (p Problem) Error() string {
	if p.Line == 0 {
		return p.File + ": " + p.Message
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
}

// Problems is everything that is wrong in a file, by position. Parse and Load return it inside a *sandbox.Error of kind
// Invalid: errors.As finds either.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// err is nil when there are no problems.
func (ps Problems) err() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column)) })
	return &sandbox.Error{Kind: sandbox.Invalid, Message: ps.Error(), Err: ps}
}
