package agent

import (
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	guestv1 "github.com/agentkernel/agentkernel/api/guest/v1"
)

// Warm uses every message of the guest protocol once. The library finds out about a message when it is first used, by much code that
// runs only then. In a template that has run, its findings are in the memory that is saved, and a guest that goes on has
// none of that code for a VMM to translate.
func Warm() {
	ours := guestv1.File_agent_proto.Package()
	protoregistry.GlobalTypes.RangeMessages(func(t protoreflect.MessageType) bool {
		if t.Descriptor().ParentFile().Package() == ours {
			proto.Size(t.New().Interface())
		}
		return true
	})
}
