"""The model supervisor: what settled outcomes say of agents, and how far each is trusted."""
